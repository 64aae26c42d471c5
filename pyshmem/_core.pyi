# The cffi extension made from shmemx.h at build. Its functions are checked by cffi at run time; the typed
# face of the library is the rest of this package.
from typing import Any

ffi: Any
lib: Any
