"""The page at `/docs`: the OpenAPI document made readable, whole in one file, without a network."""
