/* The deprecated folder of the headers. */
#include "../shmem.h"
