"""What can go wrong between a kernel's source and its launch."""


class KernelCompileError(RuntimeError):
    """A compiler refused a kernel; the message holds the compiler's own."""


class KernelCheckError(RuntimeError):
    """Checked mode found a fault in a kernel; the message names kernel, block, thread, and what was touched."""
