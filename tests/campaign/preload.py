"""What the server that runs are forked from imports, and nobody else."""

import gc
import threading

from tqdm.auto import tqdm

from campaign import children

__all__ = ["children"]
# Its usual lock is one of several processes, which killed ones leave behind.
tqdm.set_lock(threading.RLock())
# What is imported is no garbage, and looking for some takes half of a short run's time.
gc.freeze()
