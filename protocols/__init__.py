"""What is said between parts, and in which bytes: types, messages, wire, dialects, client. No sockets but the client's."""
