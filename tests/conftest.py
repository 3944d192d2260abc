import os

# Tests use tiny tensors, and servers of their own beside them: more threads would only wait for each other's cores.
# Set before torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
