/* Clocks that only go forward: for the seconds that a search reports, and for those
 * that a processor worked.
 */
#ifndef DEAL_COMMON_CLOCK_H
#define DEAL_COMMON_CLOCK_H

// Seconds since some fixed moment.
double deal_clock_seconds(void);

// Seconds that the calling thread ran; not those that it waited for its turn.
double deal_clock_thread_seconds(void);

#endif
