"""Saga definitions in Seata's state language: what they say, and the machine that follows them."""
