"""Every command, in the order in which the help lists them. A new one is a line here, and a `Command` in the file of its first word."""

from __future__ import annotations

from daemon.ctl.command import Entry

COMMANDS = (
    Entry("status", "Shows how the daemon, its providers and its budgets are; exits 1 when degraded."),
    Entry("chat", "Asks a model; the answer is printed as it comes."),
    Entry("explain", "Shows which model would answer and why; nobody is called."),
    Entry("estimate", "Reckons what a call, or many calls of some tasks, would cost; nobody is called."),
    Entry("recommend", "Names the model for a task at each quality tier; nobody is called."),
    Entry("models", "Lists the models, their prices and whether they can be called."),
    Entry("providers", "Lists the providers, their state and how fast they answer."),
    Entry("prefer", "Sets your default model, or your model of a provider, or lists them."),
    Entry("users", "Lists the users who chose a model."),
    Entry("sessions", "Lists the users whose context is live, and what they spent since."),
    Entry("sessions open", "Opens a session and reads its user's choices ahead of the first call."),
    Entry("sessions close", "Lets a session leave memory; the next call opens another."),
    Entry("spend", "Shows what is spent, held and left of each limit, and sums it up."),
    Entry("usage", "Lists the attempts, newest first: who called what, and what it cost."),
    Entry("usage stats", "Lists a user's models: how often each was used, what it cost, how it did."),
    Entry("performance", "Shows how models did: latency, errors, cost, feedback; with --ab the arms of experiments."),
    Entry("feedback", "Says what you think of an answer, from -1 to 1."),
    Entry("tournaments", "Lists the tournaments, newest first, and marks those that a person should look at."),
    Entry("tournaments show", "Shows a tournament with its ballots."),
    Entry("tournaments replay", "Evaluates a tournament's stored ballots anew; nobody is called, nothing changes."),
    Entry("reviews", "Lists the tournaments that wait for a person to say which answer was right."),
    Entry("reviews resolve", "Says which answer was right; members that gave it count as more reliable."),
    Entry("alerts", "Lists when spend reached 75, 80, 90 and 100 % of a limit, newest first."),
    Entry("holds", "Lists money held for calls under way, and calls whose outcome nobody knows."),
    Entry("holds resolve", "Says what a call with an unknown outcome cost, as the provider's bill has it."),
    Entry("overrides", "Lists who may pass a budget, by how much and until when."),
    Entry("overrides grant", "Lets calls pass your budget, or another user's, by an amount until a time."),
    Entry("overrides revoke", "Ends an override now."),
    Entry("audit", "Lists who changed settings, budgets and books, and why, newest first."),
    Entry("settings show", "Lists the settings as they hold for you."),
    Entry("settings get", "Prints the value of one setting."),
    Entry("settings set", "Sets a setting."),
    Entry("settings unset", "Takes a setting back, so that the default holds again."),
    Entry("ledger verify", "Recomputes every balance from the journal and compares."),
    Entry("watch", "Prints events as they happen: alerts, attempts, providers, settings, overrides."),
    Entry("call", "Calls any method of the daemon and prints its result as JSON."),
)
