/* A clock that only goes forward, for the seconds that a search reports. */
#ifndef DEAL_COMMON_CLOCK_H
#define DEAL_COMMON_CLOCK_H

// Seconds since some fixed moment.
double deal_clock_seconds(void);

#endif
