"""One thread, so that times and bits repeat, and `tests/` on the path, so that `from oracles import …` works."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
