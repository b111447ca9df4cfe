"""The GPUs that the NVIDIA driver offers, without any library of CUDA's."""

import sys


def nvidia_gpus() -> int:
    """The number of GPUs that the NVIDIA driver offers to this process; 0 without a working driver."""
    import ctypes

    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
        return count.value
    except (OSError, AttributeError):
        return 0
