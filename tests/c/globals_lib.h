/* Variables of a shared library, and one that only a function shows. */
#ifndef TESTS_GLOBALS_LIB_H
#define TESTS_GLOBALS_LIB_H

enum { LIBRARY_ELEMENTS = 5000 };
extern long library_word;
extern double library_array[LIBRARY_ELEMENTS];
long *library_hidden(void);

#endif
