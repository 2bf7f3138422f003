/* The floor of CGI: what a process for each request costs that does nothing but answer, as apps/hello.py does. */
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
    printf("Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nX-Release: %s\r\n\r\nhello, world\n",
           release);
    return 0;
}
