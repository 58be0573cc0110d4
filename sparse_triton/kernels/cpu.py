from sparse_triton.kernels.dense import Dense
class Cpu(Dense):
    name = "cpu"
