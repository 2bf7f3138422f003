//! RF09: the site at its URL, as `check --url` finds it.

super::codes! {
    UNREACHED = 901, "the URL cannot be reached" {
        cause: "its host name is unknown, no server answers there, its certificate is not accepted, or there is neither curl \
            nor a Python with ssl",
        consequence: "visitors cannot reach it either, unless the reason lies in the network of this machine",
        cure: "follow the reason that the message names; SSL_CERT_FILE names a file with further certificates to accept",
    }
    ANOTHER_PROGRAM = 902, "the URL does not reach this program" {
        cause: "the web server answers by itself or with another program: .htaccess is not in effect, the URL belongs to \
            another directory or machine, or the processes of the site run as a user other than the one of check",
        consequence: "visitors do not see this site, or check cannot tell",
        cure: "compare the directory of the executable with the one that the host names for the URL, and run check without \
            --url",
    }
    WRONG_PATH = 903, "the path of a URL arrives changed" {
        cause: "a rewrite rule or a proxy changes the path or the query, or does not pass on all URLs",
        consequence: "some pages are not found, and links and redirects may contain the name of the executable",
        cure: "use the rules of htaccess-templates/site.htaccess, and leave [app] script_name at auto",
    }
    NO_HTTPS = 904, "the site does not learn that visitors use https" {
        cause: "a proxy in front of the web server handles https, and passes requests on over http without saying so",
        consequence: "SECURE_SSL_REDIRECT redirects forever, links begin with http://, and the owner's desk stays closed",
        cure: "ask the host to have the proxy send X-Forwarded-Proto, and set SECURE_PROXY_SSL_HEADER in Django",
    }
    BAD_REDIRECT = 905, "a redirect is missing or leads astray" {
        cause: "a rule of .htaccess or a setting of the site redirects visitors in a circle or to an address that does not \
            answer, or http or an address without its slash is not redirected",
        consequence: "visitors get an error, or send passwords without encryption",
        cure: "fix the rule or the setting that redirects; SECURE_SSL_REDIRECT = True in Django redirects http to https",
    }
    VISITORS_FAIL = 906, "visitors get an error at the URL" {
        cause: "the site or the web server answers a plain request with an error",
        consequence: "visitors cannot use the site",
        cure: "look into the log; a 400 from Django means that the host is not in ALLOWED_HOSTS",
    }
    NO_AUTHORIZATION = 907, "the Authorization header does not arrive" {
        cause: "Apache keeps it from programs, unless a rule of .htaccess passes it on",
        consequence: "API tokens and HTTP basic authentication of the site do not work",
        cure: "add the lines of htaccess-templates/authorization.htaccess to .htaccess",
    }
    UPLOADS_REFUSED = 908, "the web server refuses larger uploads" {
        cause: "a limit of the web server, such as mod_fcgid's FcgidMaxRequestLen (128 KiB) or LimitRequestBody",
        consequence: "visitors who send more get an error from the web server",
        cure: "use htaccess-templates/site.htaccess, which sends larger uploads through CGI, or ask the host to raise the limit",
    }
    PUBLIC_FILE = 909, "visitors can read a private file" {
        cause: "the web server sends a file that holds settings, code, data or a log",
        consequence: "anybody can read the passwords and data in it",
        cure: "use htaccess-templates/site.htaccess, or move the file out of the document root; then change the passwords in it",
    }
    NO_STATIC_FILE = 910, "a style sheet or script of a page is missing" {
        cause: "collectstatic put the files elsewhere than STATIC_URL says, or was not run",
        consequence: "pages, including the admin, have no styles or scripts",
        cure: "set STATIC_ROOT to the directory that the web server serves at STATIC_URL, and run manage.py collectstatic",
    }
}
