/* The deprecated folder of the headers. */
#include "../shmemx.h"
