"""`normres bench step`: a whole training step beside stock Flax and PyTorch, each contender in a process of its own.

cells.py says what is computed; own.py, flax_network.py and torch_worker.py compute it; serve.py times them all
with the same lines; workers.py starts the processes; measure.py asks them in turns and writes the JSON; agreement.py
compares what they computed; show.py makes the table and the figure.
"""
