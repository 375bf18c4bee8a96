"""Speed and memory: python -m benchmarks.speed. One file a sub-command, but for these.

measure   seconds, bytes and operations of a call
runs      a training and a sampling to measure, of real size or of the demo model
rivals    what `contenders` compares; each is a process of its own
"""
