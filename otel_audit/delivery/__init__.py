"""Delivery: the outbox, the senders and the shipper that joins them."""
