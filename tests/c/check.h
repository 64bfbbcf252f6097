/* Checks for the C tests: plain programs that print "name: N passed, N failed". */
#ifndef DEAL_TESTS_CHECK_H
#define DEAL_TESTS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <string.h>

static int check_n_passed, check_n_failed;

static inline int
check_that(int holds, const char *what, const char *file, int line)
{
    if (holds) {
        check_n_passed++;
    } else {
        check_n_failed++;
        printf("%s:%d: failed: %s\n", file, line, what);
    }
    return holds;
}

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)

#define CHECK_EQ_INT(actual, expected)                                                 \
    do {                                                                               \
        long long check_a_ = (long long)(actual), check_e_ = (long long)(expected);    \
        if (!check_that(check_a_ == check_e_, #actual " == " #expected, __FILE__,      \
                        __LINE__))                                                     \
            printf("    got %lld, expected %lld\n", check_a_, check_e_);               \
    } while (0)

#define CHECK_NEAR(actual, expected, tolerance)                                        \
    do {                                                                               \
        double check_a_ = (double)(actual), check_e_ = (double)(expected);             \
        if (!check_that(fabs(check_a_ - check_e_) <= (tolerance),                      \
                        #actual " near " #expected, __FILE__, __LINE__))               \
            printf("    got %.9g, expected %.9g\n", check_a_, check_e_);               \
    } while (0)

#define CHECK_STR(actual, expected)                                                    \
    do {                                                                               \
        const char *check_a_ = (actual), *check_e_ = (expected);                       \
        if (!check_that(strcmp(check_a_, check_e_) == 0, #actual " == " #expected,     \
                        __FILE__, __LINE__))                                           \
            printf("    got \"%s\", expected \"%s\"\n", check_a_, check_e_);           \
    } while (0)

// Whether `text` contains `part`; prints both where it does not.
#define CHECK_HAS(text, part)                                                          \
    do {                                                                               \
        const char *check_a_ = (text), *check_e_ = (part);                             \
        if (!check_that(strstr(check_a_, check_e_) != NULL, #text " has " #part,       \
                        __FILE__, __LINE__))                                           \
            printf("    \"%s\" lacks \"%s\"\n", check_a_, check_e_);                   \
    } while (0)

// Exit code for main.
static inline int
check_report(const char *name)
{
    printf("%s: %d passed, %d failed\n", name, check_n_passed, check_n_failed);
    return check_n_failed || !check_n_passed;
}

#endif
