"""What a step asks of the loss, and what it makes of the answers.

`rule` is the protocol, `combine` what to do with two gradients, `schedule` how far and when, `zoo`
the named members.
"""
