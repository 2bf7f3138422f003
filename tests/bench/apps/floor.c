/* The floor: what a FastCGI program costs that does nothing but answer. Started with its listening socket
 * as fd 0. Answers as apps/hello.py does; the release is read once, from the file beside it, as the Python apps do. */
#include <fcgiapp.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    char release[32] = "";
    FILE *file = fopen("release", "r");
    if (file) {
        if (fgets(release, sizeof release, file))
            release[strcspn(release, "\n")] = 0;
        fclose(file);
    }
    FCGX_Stream *in, *out, *err;
    FCGX_ParamArray environ;
    while (FCGX_Accept(&in, &out, &err, &environ) == 0)
        FCGX_FPrintF(out,
                     "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nX-Release: %s\r\n\r\n"
                     "hello, world\n",
                     release);
    return 0;
}
