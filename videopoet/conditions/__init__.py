"""How a clip's pixels become the clip that a task is conditioned on, as frozen values.

A condition maps a `Shot` to a video of the same shape, which goes through the visual tokenizer like any other. The same
value does so when shards are tokenised and when a model is sampled from: it travels with the token shards and with the
model, so that the two cannot drift apart.
"""
