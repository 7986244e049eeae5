"""The language of the kernels of a GPU: Triton, where it is installed, and arithmetic of the tuples of tiles it lacks.

UNUSABLE says why Triton cannot be used, or is None.
"""

# The language of the kernels is not Python's.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

from types import SimpleNamespace

try:
    import triton
    import triton.language as tl
except ImportError as error:
    UNUSABLE = str(error)
    # Enough for the kernels to be read.
    triton = tl = SimpleNamespace(jit=lambda **_: lambda f: f, constexpr=int)  # type: ignore[assignment]
else:
    UNUSABLE = None
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):  # which lack tuples of tensors
        UNUSABLE = f"version {triton.__version__} is older than 3.4"

jit = triton.jit(do_not_specialize=["height", "width", "groups", "blocks", "tiles", "shares"])


@jit
def scaled(a, factor):
    """Return the tuple of all factor a_i."""
    every = ()
    for i in tl.static_range(len(a)):
        every += (factor * a[i],)
    return every


@jit
def divided(a, by):
    """Return the tuple of all a_i / by."""
    every = ()
    for i in tl.static_range(len(a)):
        every += (a[i] / by,)
    return every


@jit
def absolute(a):
    """Return the tuple of all |a_i|."""
    every = ()
    for i in tl.static_range(len(a)):
        every += (tl.abs(a[i]),)
    return every


@jit
def added(a, b):
    """Return the tuple of all a_i + b_i."""
    every = ()
    for i in tl.static_range(len(a)):
        every += (a[i] + b[i],)
    return every


@jit
def subtracted(a, b):
    """Return the tuple of all a_i - b_i."""
    every = ()
    for i in tl.static_range(len(a)):
        every += (a[i] - b[i],)
    return every


@jit
def dot(a, b):
    """Return sum_i a_i b_i."""
    total = a[0] * b[0]
    for i in tl.static_range(1, len(a)):
        total += a[i] * b[i]
    return total
