#ifndef COORDINATOR_PREFILL_CHOICE_H
#define COORDINATOR_PREFILL_CHOICE_H
/* Shall a prompt be predicted, given how soon its first token is wanted or how good its rows must be? Decides by what earlier
 * prompts of this cluster took, exact and predicted ones, and says why. Pure numbers; refuses to know jobs and clocks. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PREFILL_LENGTHS = 25, PREFILL_WHY = 127 };   /* doublings of a prompt's rows; bytes of a reason */

typedef struct { double row_ns[PREFILL_LENGTHS]; } prefill_cost;    /* of a row, by how long the prompt was; 0: none was so long yet */

/* A prompt of so many rows took so long until its first token. New ones count a quarter: what else the machine does changes. */
void prefill_cost_note(prefill_cost *c, uint32_t rows, uint64_t ns);
/* ns, in proportion to the nearest length that was measured; 0: none was. */
double prefill_cost_of(const prefill_cost *c, uint32_t rows);

typedef struct {
    uint32_t rows, own;             /* of the prompt; those that the model computes itself when the others are predicted */
    uint64_t limit_ms;              /* the first token is wanted by then, 0: as soon as `least` allows */
    double least, explained;        /* quality that is wanted, and of a predicted row: the share of its variance that the maps explain */
    const prefill_cost *exact, *predicted;
} prefill_question;

/* Share of the prompt's rows that is right: own rows are, predicted ones as far as they are explained. */
double prefill_quality(const prefill_question *q);
bool prefill_predicts(const prefill_question *q, char why[PREFILL_WHY + 1]);
#endif
