// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evpl-copy: its options, its start and its end. See copy.h. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "copy.h"

static const char help[] =
"Usage: evpl-copy [OPTION...] SOURCE HOST[:PORT]\n"
"       evpl-copy -l [OPTION...] TARGET\n"
"Copies a file or block device over RDMA: with -l it receives, else it sends.\n"
"\n"
"  -l, --listen        receive one file, and exit\n"
"  -p, --port=PORT     of the receiver (" DEFAULT_PORT ")\n"
"  -b, --bind=ADDRESS  the receiver listens on that address alone\n"
"  -d, --device=NAME   use this RDMA device and no other\n"
"  -c, --chunk=SIZE    what is read and sent at a time: 64K to 1M (1M)\n"
"  -q, --depth=NUMBER  how many chunks are under way at an end: 1 to 1024 (16)\n"
"  -s, --size=SIZE     send only the first SIZE bytes\n"
"  -r, --rate=SIZE     send at most SIZE bytes a second\n"
"      --quiet         no progress\n"
"  -h, --help          this text\n"
"  -V, --version       the version\n"
"SIZE is in bytes, or has K, M, G or T behind it. HOST may be in brackets: [::1]:1234.\n"
"The memory is that of the kernel module evpl; EVPL_BACKEND=anon does without.\n";

static void __attribute__((noreturn, format(printf, 1, 2))) die_usage(const char *format, ...)
{
	va_list args;

	fputs("evpl-copy: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs(" See evpl-copy --help.\n", stderr);
	exit(2);
}

/* Ends the program, with requests still under way, and tells the peer if there is one. */
void die(struct copy *copy, const char *format, ...)
{
	char why[512];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	if (copy->progress.terminal && !copy->progress.quiet)
		fputc('\n', stderr);
	fprintf(stderr, "evpl-copy: %s\n", why);
	peer_tell(copy, why);
	exit(1);
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t parse_size(const char *name, const char *text)
{
	static const char units[] = "KMGT";
	unsigned long long size;
	const char *unit;
	unsigned int shift = 0;
	char *end;

	errno = 0;
	size = strtoull(text, &end, 10);
	if (end != text && *end && !end[1]) {
		unit = strchr(units, *end & ~0x20);
		if (unit) {
			shift = 10 * (unsigned int)(unit - units + 1);
			end++;
		}
	}
	if (errno || *end || end == text || *text == '-' || size > (uint64_t)INT64_MAX >> shift)
		die_usage("%s isn't a size for --%s.", text, name);
	return size << shift;
}

static unsigned int parse_within(const char *name, const char *text, unsigned int min,
				 unsigned int max)
{
	uint64_t value = parse_size(name, text);

	if (value < min || value > max)
		die_usage("--%s must be from %u to %u.", name, min, max);
	return (unsigned int)value;
}

/* Takes HOST, HOST:PORT, [ADDRESS]:PORT, or an address with colons. */
static void parse_host(struct options *options, char *text)
{
	char *colon = strrchr(text, ':');

	options->host = text;
	if (*text == '[') {
		options->host++;
		text = strchr(text, ']');
		if (!text || (text[1] && text[1] != ':'))
			die_usage("%s isn't an address.", options->host - 1);
		*text++ = '\0';
		colon = *text ? text : NULL;
	} else if (colon && strchr(text, ':') != colon) {
		colon = NULL;
	}
	if (colon) {
		*colon = '\0';
		options->port = colon + 1;
	}
	if (!*options->host || !*options->port)
		die_usage("There is no host, or no port after the colon.");
}

static void parse(struct options *options, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "listen", no_argument, NULL, 'l' },
		{ "port", required_argument, NULL, 'p' },
		{ "bind", required_argument, NULL, 'b' },
		{ "device", required_argument, NULL, 'd' },
		{ "chunk", required_argument, NULL, 'c' },
		{ "depth", required_argument, NULL, 'q' },
		{ "size", required_argument, NULL, 's' },
		{ "rate", required_argument, NULL, 'r' },
		{ "quiet", no_argument, NULL, 'Q' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	const char *bind = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "lp:b:d:c:q:s:r:hV", longs, NULL)) != -1) {
		switch (c) {
		case 'l': options->listen = true; break;
		case 'p': options->port = optarg; break;
		case 'b': bind = optarg; break;
		case 'd': options->device = optarg; break;
		case 'c': options->chunk = parse_within("chunk", optarg, CHUNK_MIN, CHUNK_MAX); break;
		case 'q': options->depth = parse_within("depth", optarg, 1, DEPTH_MAX); break;
		case 's': options->size = parse_size("size", optarg); break;
		case 'r': options->rate = parse_size("rate", optarg); break;
		case 'Q': options->quiet = true; break;
		case 'h': fputs(help, stdout); exit(0);
		case 'V': puts("evpl-copy " EVPL_VERSION); exit(0);
		default: fputs("See evpl-copy --help.\n", stderr); exit(2);
		}
	}
	if (options->chunk % BLOCK)
		die_usage("--chunk must be a multiple of %u.", BLOCK);
	if (argc - optind != (options->listen ? 1 : 2))
		die_usage(options->listen ? "Give the target." : "Give the source and the host.");
	if (options->listen && (options->size != UINT64_MAX || options->rate != UINT64_MAX))
		die_usage("--size and --rate are the sender's to say.");
	if (!options->rate)
		die_usage("--rate must be above 0.");
	if (!options->listen && bind)
		die_usage("--bind is the receiver's to say.");
	options->file = argv[optind];
	options->host = bind;
	if (!options->listen)
		parse_host(options, argv[optind + 1]);
}

int main(int argc, char **argv)
{
	struct copy copy = {
		.options = {
			.port = DEFAULT_PORT,
			.chunk = DEFAULT_CHUNK,
			.depth = DEFAULT_DEPTH,
			.size = UINT64_MAX,
			.rate = UINT64_MAX,
		},
	};

	parse(&copy.options, argc, argv);
	if (copy.options.listen)
		copy_receive(&copy);
	else
		copy_send(&copy);

	memory_report(&copy);
	connection_close(&copy);
	disk_close(&copy);
	memory_close(&copy);
	return 0;
}
