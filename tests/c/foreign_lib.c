/* Stands for another OpenSHMEM library: the names that any has, and no heap. */
__attribute__((visibility("default"))) void shmem_init(void) {}
__attribute__((visibility("default"))) void pshmem_init(void) {}
__attribute__((visibility("default"))) int shmem_my_pe(void)
{
    return 0;
}
