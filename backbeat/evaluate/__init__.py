"""Which tier is good enough: every tier on the same sample through the real queue.

dataset   labelled lines, from a file or from feedback, and the sample of them
variants  a definition made to run at one tier, writing nothing to the outside
drain     enqueue, tick, wait, read what became of it
score     right or wrong, intervals, what a right answer costs, which tier to take
picture   the same as SVG
"""
