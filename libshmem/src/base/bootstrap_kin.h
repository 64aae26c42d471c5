/* Whether the launcher's variables are ours, or inherited from a rank above us. */
#ifndef SHMEMI_BOOTSTRAP_KIN_H
#define SHMEMI_BOOTSTRAP_KIN_H

#include <stdbool.h>
#include <stddef.h>

/* A child that a rank started (subprocess, fork) has the rank's environment, but may not speak for it: two
 * processes would answer the launcher as one. A wrapper between launcher and rank (a shell, a debugger) has
 * it too, and is no rank. The difference: an ancestor with the same values of the variables `names`
 * (NULL-terminated) that has one of `libraries` (parts of paths, NULL-terminated) mapped has joined, or is
 * about to. With own_library, our own library's file counts too. True = inherited, `why` says from whom. */
bool shmemi_bootstrap_inherited(const char *const *names, const char *const *libraries, bool own_library,
                                char *why, size_t n);

#endif
