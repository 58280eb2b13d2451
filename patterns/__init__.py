"""The pattern library: nouns are patterns, verbs are rules that rewrite them."""
