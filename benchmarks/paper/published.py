"""Figures as they were published, each with where it stands. What is not here was not available.

The speed-ups of single problems are in ``problems.json``: SparseRT on an NVIDIA T4 over cuBLAS and
cuDNN, float32.
"""

from __future__ import annotations

NOT_AVAILABLE = "not available"

SPARSERT = (
    "Z. Wang, SparseRT: Accelerating Unstructured Sparsity on GPUs for Deep Learning Inference, "
    "PACT 2020 (arXiv 2008.11849)"
)
SPARSERT_MEANS = {"0.9": 3.4, "0.95": 5.4}  # geometric means over cuBLAS on a T4, its abstract

SURVEY = "Q. Chen, A Survey on Accelerating Sparse CNN Inference on GPUs, TU Delft 2022"

PECR = (
    "W. Xu and others, Accelerating Convolutional Neural Network by Exploiting Sparsity on GPUs, "
    "ACM TACO 2023 (doi 10.1145/3600092)"
)
PECR_VGG19 = 1.97  # whole VGG-19 over cuDNN, its abstract

STRUCTURED = (
    "A. Mishra and others, Accelerating Sparse Deep Neural Networks, 2021 (arXiv 2104.08378)"
)
STRUCTURED_PEAK = 2.0  # math throughput of 2:4 over dense tensor cores, its abstract
