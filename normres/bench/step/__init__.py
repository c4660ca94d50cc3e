"""`normres bench step`: a whole training step beside stock Flax and PyTorch, each contender in a process of its own.

cells.py says what is computed, and computes it with normres; flax_network.py and torch_worker.py compute it too;
serve.py times them all with the same lines; workers.py starts the processes; agreement.py compares what they computed;
measure.py asks them in turns, and writes the JSON and the table.
"""
