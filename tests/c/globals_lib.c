/* A shared library whose variables programs put to (user_globals.c). */
#include "globals_lib.h"

long library_word = 41;
double library_array[LIBRARY_ELEMENTS];
static long hidden = 5;

long *library_hidden(void)
{
    return &hidden;
}
