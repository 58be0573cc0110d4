"""Convolutions through staged tiles: families ``gather`` and ``unrolled`` of ``ConvProblem``.

``tile`` (what is staged, where each tap finds it) -> ``shape`` (a program in numbers) -> ``limits``
(legality) -> ``lists`` + ``walk`` (gather) or ``program`` (unrolled): what is multiplied, as PTX ->
``stage``, ``exchange``, ``finish``, ``kernel``: the Triton kernels around it -> ``source``: what is
compiled and launched. ``interpreter`` is their meaning in NumPy, ``model`` ranks configurations
nobody measured.
"""
