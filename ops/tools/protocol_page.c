/* Prints docs/PROTOCOL.md (`make protocol`). All it knows is in proto/messages.def. */
#include "proto/message.h"

int main(void)
{
    msg_write_protocol(stdout);
    return fflush(stdout) || ferror(stdout);
}
