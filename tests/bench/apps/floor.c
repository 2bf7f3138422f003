/* The floor: what a program costs that does nothing but answer, as apps/hello.py does. As FastCGI it is started with
 * its listening socket as fd 0, as CGI once for each request. */
#include <fcgiapp.h>
#include <stdio.h>
#include <string.h>

#define ANSWER "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nX-Release: %s\r\n\r\nhello, world\n"

int main(void) {
    char release[32] = "";
    FILE *file = fopen("release", "r");
    if (file) {
        if (fgets(release, sizeof release, file))
            release[strcspn(release, "\n")] = 0;
        fclose(file);
    }
    if (FCGX_IsCGI()) {
        printf(ANSWER, release);
        return 0;
    }
    FCGX_Stream *in, *out, *err;
    FCGX_ParamArray environ;
    while (FCGX_Accept(&in, &out, &err, &environ) == 0)
        FCGX_FPrintF(out, ANSWER, release);
    return 0;
}
