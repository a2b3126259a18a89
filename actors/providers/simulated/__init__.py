"""The simulated provider: a real HTTP server that speaks as OpenAI, Anthropic and Ollama do, and misbehaves on demand.

`python -m actors.providers.simulated` runs it; `behaviour.Behaviour` lists what it can be told. It shares no types with
`protocols.dialects`, so that a mistake there can't hide in a mirror image here.
"""
