"""How far an attempt has come: what arrived of the answer, and why it ended."""

from __future__ import annotations

from msgspec import Struct, field

from actors.rules.settlement import Ending
from protocols.chat import (
    Delta,
    Finished,
    FunctionCall,
    Item,
    Reasoning,
    Reply,
    StreamEvent,
    TokenCount,
    ToolCall,
    ToolCallDelta,
)


class Progress(Struct):
    """State: whether a byte left and an answer began, its pieces, the provider's count, how it ended."""

    sent: bool = False
    answering: bool = False
    complete: bool = False
    aborted: bool = False
    pieces: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, ToolCall] = field(default_factory=dict)
    tokens: TokenCount | None = None
    finish_reason: str | None = None
    first_token_at: float | None = None

    def take(self, event: StreamEvent) -> Item | None:
        """Notes an event of a stream; content comes back, to be sent on."""
        match event:
            case Delta():
                self.pieces.append(event.text)
            case Reasoning():
                self.reasoning.append(event.text)
            case ToolCallDelta():
                self._take_call(event)
            case TokenCount():
                self.tokens = event
                return None
            case Finished():
                self.finish_reason = event.reason
                return None
        return event

    def _take_call(self, piece: ToolCallDelta) -> None:
        call = self.calls.setdefault(piece.index, ToolCall(id=f"call_{piece.index}", function=FunctionCall(name="")))
        call.id = piece.id or call.id
        call.function.name = piece.name or call.function.name
        call.function.arguments += piece.arguments

    def finish(self, reply: Reply) -> Reply:
        """Notes a whole answer."""
        self.complete = True
        self.pieces.append(reply.text)
        self.reasoning.append(reply.reasoning)
        self.calls = dict(enumerate(reply.tool_calls))
        self.tokens = reply.tokens
        self.finish_reason = reply.finish_reason
        return reply

    def reply(self) -> Reply:
        """The answer put together from its pieces."""
        calls = [call for _, call in sorted(self.calls.items())]
        return Reply(self.text(), "".join(self.reasoning), calls, self.finish_reason, self.tokens)

    @property
    def counted(self) -> TokenCount | None:
        """The provider's count, if it can be: none of a prompt, or of an answer that is there, counts as no count."""
        tokens = self.tokens
        if tokens is None or tokens.prompt == 0 or (tokens.response == 0 and self.emitted_text()):
            return None
        return tokens

    @property
    def emitted(self) -> bool:
        """Whether any content arrived: from then on there is no fallback."""
        return bool(self.pieces or self.reasoning or self.calls)

    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self.pieces)

    def emitted_text(self) -> str:
        """All that the model wrote so far, for an estimate of its tokens."""
        calls = [call.function.name + call.function.arguments for call in self.calls.values()]
        return "".join([*self.pieces, *self.reasoning, *calls])

    def ending(self) -> Ending:
        """How it ended, for the money."""
        if self.complete:
            return "complete"
        if not self.sent:
            return "refused"
        if self.aborted:
            return "aborted"
        return "broken" if self.answering else "refused"
