"""How connections to frontends reach the engine's sockets."""
