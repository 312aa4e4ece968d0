#ifndef COORDINATOR_STOPS_H
#define COORDINATOR_STOPS_H
/* Stop strings over streamed text: text that may still become a stop string is held back; a stop string and what follows
 * it is never shown. Of several, the one that ends first counts (text behind it was never generated), and of those that
 * end together the longest; so the result does not depend on how the text was cut into pieces. Bytes, not characters: a
 * piece may end inside a UTF-8 sequence. One object a choice; one thread. */
#include "core/buf.h"
typedef struct stops stops;
/* list: strings each ended by a NUL (as in SUBMIT). Empty strings and a missing last NUL are refused (ERR_INPUT).
 * NULL/0: no stops. The list is copied. */
err_code stops_open(stops **out, const char *list, size_t len, err *e);
void stops_close(stops **s);
/* Add text; what can be shown is appended to *out. Returns true when a stop string has ended; from then on nothing more
 * is shown. When memory is out the text is not taken, nothing is shown, and stops_failed says so. */
bool stops_push(stops *s, view in, text *out);
/* End of generation without a stop: give out what was held back. */
void stops_flush(stops *s, text *out);
/* Some push or flush has failed for want of memory: what was shown has a hole. */
bool stops_failed(const stops *s);
#endif
