#ifndef CLI_CALIBRATE_DOCS_H
#define CLI_CALIBRATE_DOCS_H
/* The text of a calibration as documents with prompts, for sections about what leaving out layers costs. Chooses none of them. */
#include "ops/cli/calibrate.h"
#include "ops/cli/documents.h"

enum { CALIBRATE_DOC_MOST = 256 };   /* tokens of a document */
/* Documents parted by blank lines (documents.h), or where there are too few of these stretches of the text, the first half of each its prompt. */
err_code calibrate_documents(const calibration *c, documents *out, err *e);
#endif
