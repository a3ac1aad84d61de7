"""The network as attacks see it: a frozen copy in eval mode, with batch norms folded into convolutions, run in blocks.

The copy computes the same function up to rounding, and is faster without the batch norms: attacks run it many times.
Adversarial images are always scored on the network itself.
"""

from advmia.attacks.inference.blocks import Blocks as Blocks
from advmia.attacks.inference.captured import Captured as Captured
from advmia.attacks.inference.captured import without_graphs as without_graphs
from advmia.attacks.inference.compiled import Compiled as Compiled
from advmia.attacks.inference.copies import compile_copies as compile_copies
from advmia.attacks.inference.copies import fitting_batch as fitting_batch
from advmia.attacks.inference.copies import inference_copy as inference_copy
from advmia.attacks.inference.copies import plain_kernels as plain_kernels
