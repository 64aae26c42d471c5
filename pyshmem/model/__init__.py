"""`pyshmem model`: times of MoE dispatch and combine on 8 to 256 GPUs, from figures of the hardware.

hardware.py has the figures, traffic.py what routing sends where, predict.py the two algorithms, published.py
the table that they are held against.
"""

from .hardware import HARDWARE, IBGDA, PATHS, PROXY, Hardware, Path, changed
from .predict import FORMATS, MESSAGES, Prediction, low_latency, normal, row_bytes
from .traffic import Shape, Traffic

__all__ = [
    "FORMATS",
    "HARDWARE",
    "IBGDA",
    "MESSAGES",
    "PATHS",
    "PROXY",
    "Hardware",
    "Path",
    "Prediction",
    "Shape",
    "Traffic",
    "changed",
    "low_latency",
    "normal",
    "row_bytes",
]
