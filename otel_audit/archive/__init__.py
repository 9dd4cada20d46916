"""The local store, which is the outbox too."""
