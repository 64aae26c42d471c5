/* A program that is linked with libshmem and with another OpenSHMEM library (foreign_lib.c), in either order: libshmem says so
 * and does nothing. Behind a tool that has shmem_init alone (foreign_tool.c) it works. */
#include <stdio.h>
#include "shmemx.h"

int main(void)
{
    static long word, value = 5;
    shmem_init(); /* ends the process where it is libshmem's */
    int rc = shmemx_put(SHMEM_CTX_DEFAULT, &word, &value, sizeof value, 0);
    printf("put: %d, word %ld\n", rc, word);
    if (rc == 0)
        shmem_finalize();
    return rc != 0;
}
