/* The byte alphabet. It refuses to know what the bytes say. */
#include "engine/byte_alphabet.h"

static bool prints(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); }

int byte_alphabet_byte(uint32_t cp)
{
    if (cp < 256) return prints((int)cp) ? (int)cp : -1;
    uint32_t next = 256;
    for (int b = 0; b < 256; b++)
        if (!prints(b) && next++ == cp) return b;
    return -1;
}

static uint32_t letter(uint8_t byte)
{
    if (prints(byte)) return byte;
    uint32_t cp = 256;
    for (int b = 0; b < byte; b++) cp += !prints(b);
    return cp;
}

bool byte_alphabet_decode(view piece, text *out)
{
    const uint8_t *p = piece.ptr;
    size_t before = out->len;
    for (size_t i = 0; i < piece.len;) {
        bool two = (p[i] & 0xE0) == 0xC0 && i + 1 < piece.len && (p[i + 1] & 0xC0) == 0x80;
        int b = two ? byte_alphabet_byte((p[i] & 0x1Fu) << 6 | (p[i + 1] & 0x3Fu)) : p[i] < 0x80 ? byte_alphabet_byte(p[i]) : -1;
        if (b < 0 || !text_add(out, &(char){ (char)b }, 1)) {
            out->len = before;
            return false;
        }
        i += two ? 2 : 1;
    }
    return true;
}

bool byte_alphabet_encode(view bytes, text *out)
{
    const uint8_t *p = bytes.ptr;
    for (size_t i = 0; i < bytes.len; i++) {
        uint32_t cp = letter(p[i]);
        char two[2] = { (char)(0xC0 | cp >> 6), (char)(0x80 | (cp & 0x3F)) };
        if (!(cp < 0x80 ? text_add(out, &(char){ (char)cp }, 1) : text_add(out, two, 2))) return false;
    }
    return true;
}
