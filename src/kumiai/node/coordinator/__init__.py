"""The coordinator: sessions, transfers, the round engine, leadership."""
