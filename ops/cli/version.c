#include "core/isa.h"
#include "ops/cli/command.h"

/* Which build this is. The Makefile gives the revision to this one file, so a commit rebuilds nothing else. */

#ifndef SLUICE_REV
#define SLUICE_REV "unknown"
#endif

const char *version_revision(void) { return SLUICE_REV; }

void version_print(FILE *out)
{
    isa i;
    err e;
    const char *name = isa_pick(&i, &e) == ERR_OK ? isa_name(i) : "unusable SLUICE_ISA";
    fprintf(out, "sluice %s (revision %s, instruction set %s)\n", SLUICE_VERSION, SLUICE_REV, name);
}
