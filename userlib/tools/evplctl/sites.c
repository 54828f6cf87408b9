// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * evplctl sites: which lines of a program hold references, by the table that the program keeps with
 * EVPL_TRACE=1 (common/sites.h). The program doesn't help, and nothing in the table is believed. The
 * lines come from the debug information of the files that the program has mapped.
 */
#include <dirent.h>
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evplctl.h"
#include "sites.h"

/* Callers that a table shows of each site. JSON has all. */
#define CALLERS_SHOWN	3

/* A site that pins so many times its bytes is marked. */
#define AMPLIFICATION_MARKED	100

/**
 * struct table - a copy of the table
 * @header: its beginning
 * @sites: SITES_MAX sites; those that the program doesn't have are zeros
 * @refs: header.nr_refs references
 */
struct table {
	struct sites_header header;
	struct sites_site *sites;
	struct sites_ref *refs;
};

/* Places of a site, with functions that are inlined into others, as those of evplmem.h are. */
#define FRAMES_MAX	(4 * SITES_FRAMES)

/**
 * struct frame - a place in the source
 * @address: the return address; an inlined function has that of the function that it is a part of
 * @module: the path of the file that is mapped there, or NULL
 * @function: or NULL
 * @file: the source file, or NULL
 * @line: the line there, or 0
 */
struct frame {
	uint64_t address;
	const char *module;
	const char *function;
	const char *file;
	int line;
};

static bool read_all(int fd, void *to, size_t size, size_t offset)
{
	char *bytes = to;
	ssize_t n;

	for (; size; size -= (size_t)n, bytes += n, offset += (size_t)n) {
		n = pread(fd, bytes, size, (off_t)offset);
		if (n <= 0)
			return false;
	}
	return true;
}

/* The process's id as it sees it itself, in its own PID namespace; 0 if that can't be known. */
static uint32_t inner_pid(pid_t pid)
{
	char path[64], line[256], *last = NULL, *word;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (!last && fgets(line, sizeof(line), file))
		if (!strncmp(line, "NSpid:", 6))
			for (word = strtok(line + 6, "\t \n"); word; word = strtok(NULL, "\t \n"))
				last = word;
	fclose(file);
	return last ? (uint32_t)strtoul(last, NULL, 10) : 0;
}

/* Opens a descriptor of the process if it looks like a table of the process's own. */
static int open_table(int dir, const char *name, uint32_t pid, struct sites_header *header)
{
	char target[64] = "";
	struct stat stat;
	int fd;

	if (readlinkat(dir, name, target, sizeof(target) - 1) < 0 ||
	    strcmp(target, "/memfd:" SITES_NAME " (deleted)"))
		return -1;
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -1;
	if (!fstat(fd, &stat) && S_ISREG(stat.st_mode) &&
	    read_all(fd, header, sizeof(*header), 0) &&
	    header->magic == SITES_MAGIC && header->pid == pid)
		return fd;
	close(fd);
	return -1;
}

/* Finds the table of a process. Returns its descriptor, or -1 after a complaint. */
static int find_table(pid_t pid, struct sites_header *header)
{
	uint32_t inner = inner_pid(pid);
	const struct dirent *entry;
	char path[64];
	int fd = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && fd < 0 && (entry = readdir(dir)))
		fd = open_table(dirfd(dir), entry->d_name, inner, header);
	if (!dir && errno == ENOENT)
		complain("There is no process %d. Look for it by ps(1).", pid);
	else if (!dir)
		complain("The descriptors of process %d can't be read: %s. Its user and root may.",
			 pid, strerror(errno));
	else if (fd < 0)
		complain("Process %d keeps no table of its references. Start it with EVPL_TRACE=1.",
			 pid);
	if (dir)
		closedir(dir);
	return fd;
}

/* Copies the table of a process. Returns false after a complaint. */
static bool table_read(pid_t pid, struct table *table)
{
	struct sites_header *header = &table->header;
	int fd = find_table(pid, header);
	bool ok = false;

	if (fd < 0)
		return false;
	if (header->version != SITES_VERSION) {
		complain("Process %d has a table of another version. Take the evplctl of its library.",
			 pid);
		goto close;
	}
	if (header->nr_sites > SITES_MAX)
		header->nr_sites = SITES_MAX;
	if (header->nr_refs > SITES_REFS_MAX)
		header->nr_refs = SITES_REFS_MAX;
	table->refs = calloc(header->nr_refs + 1, sizeof(*table->refs));
	table->sites = calloc(SITES_MAX, sizeof(*table->sites));
	/* The references come first: the sites that they name exist by then. */
	ok = table->refs && table->sites &&
	     read_all(fd, table->refs, header->nr_refs * sizeof(*table->refs),
		      offsetof(struct sites_table, refs)) &&
	     read_all(fd, table->sites, SITES_MAX * sizeof(*table->sites),
		      offsetof(struct sites_table, sites));
	if (!ok)
		complain("The table of process %d can't be read. Try again.", pid);
close:
	close(fd);
	return ok;
}

/* The files that the process has mapped, or NULL: then there are addresses alone. */
static Dwfl *open_files(pid_t pid)
{
	static char *debuginfo_path;
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_linux_proc_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.debuginfo_path = &debuginfo_path,
	};
	Dwfl *dwfl = dwfl_begin(&callbacks);

	if (dwfl && !dwfl_linux_proc_report(dwfl, pid) && !dwfl_report_end(dwfl, NULL, NULL))
		return dwfl;
	dwfl_end(dwfl);
	return NULL;
}

/* Where an inlined function was called. */
static void find_call(Dwarf_Die *inlined, struct frame *frame)
{
	Dwarf_Attribute attribute;
	Dwarf_Files *files;
	Dwarf_Word value;
	Dwarf_Die unit;

	if (!dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &value))
		frame->line = (int)value;
	if (!dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &value) &&
	    dwarf_diecu(inlined, &unit, NULL, NULL) &&
	    !dwarf_getsrcfiles(&unit, &files, NULL))
		frame->file = dwarf_filesrc(files, value, NULL, NULL);
}

/*
 * The scopes that an address is in, the innermost one first. dwarf_getscopes() goes from an inlined
 * function to where that is defined; dwarf_getscopes_die() goes to where it is called.
 */
static int find_scopes(Dwarf_Die *unit, Dwarf_Addr address, Dwarf_Die **scopes)
{
	Dwarf_Die *defined, inner;
	int n = dwarf_getscopes(unit, address, &defined);

	*scopes = NULL;
	if (n <= 0)
		return 0;
	inner = defined[0];
	free(defined);
	n = dwarf_getscopes_die(&inner, scopes);
	return n < 0 ? 0 : n;
}

/* Splits a frame up into the inlined functions, of which it has the innermost line. Returns how many. */
static unsigned int split_inlined(Dwfl_Module *module, Dwarf_Addr call, struct frame *frames,
				  unsigned int room)
{
	const char *outer = frames[0].function;
	Dwarf_Die *unit, *scopes;
	unsigned int n = 0;
	Dwarf_Addr bias;
	int i, count;

	unit = dwfl_module_addrdie(module, call, &bias);
	if (!unit)
		return 1;
	count = find_scopes(unit, call - bias, &scopes);
	for (i = 0; i < count && n + 1 < room; i++) {
		if (dwarf_tag(&scopes[i]) != DW_TAG_inlined_subroutine)
			continue;
		frames[n].function = dwarf_diename(&scopes[i]);
		frames[n + 1] = (struct frame){
			.address = frames[n].address,
			.module = frames[n].module,
			.function = outer,
		};
		find_call(&scopes[i], &frames[++n]);
	}
	free(scopes);
	return n + 1;
}

/* Finds the places of a return address. Returns how many, at most @room. */
static unsigned int find_frames(Dwfl *dwfl, uint64_t address, struct frame *frames,
				unsigned int room)
{
	Dwarf_Addr call = address - 1;	/* in the instruction that calls */
	Dwfl_Module *module;
	Dwfl_Line *line;

	frames[0] = (struct frame){ .address = address };
	module = dwfl ? dwfl_addrmodule(dwfl, call) : NULL;
	if (!module)
		return 1;
	frames[0].module = dwfl_module_info(module, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
	frames[0].function = dwfl_module_addrname(module, call);
	line = dwfl_module_getsrc(module, call);
	if (!line)
		return 1;
	frames[0].file = dwfl_lineinfo(line, NULL, &frames[0].line, NULL, NULL, NULL);
	return split_inlined(module, call, frames, room);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Whether a place is in the library, which may be a part of the program. */
static bool is_library(const struct frame *frame)
{
	return (frame->module && !strncmp(base_name(frame->module), "libevplmem", 10)) ||
	       (frame->function && !strncmp(frame->function, "evplmem_", 8)) ||
	       (frame->file && !strcmp(base_name(frame->file), "evplmem.h"));
}

/*
 * Finds the places of a site. Returns how many; @program is the first one that is the program's, if
 * there is one. An exported function may call another one, and functions between them.
 */
static unsigned int site_find(Dwfl *dwfl, const struct sites_site *site, struct frame *frames,
			      unsigned int *program)
{
	unsigned int i, n = 0;

	for (i = 0; i < SITES_FRAMES && site->frames[i] && n < FRAMES_MAX; i++)
		n += find_frames(dwfl, site->frames[i], &frames[n], FRAMES_MAX - n);
	*program = 0;
	for (i = 0; i < n; i++)
		if (is_library(&frames[i]))
			*program = i + 1;
	if (*program >= n)
		*program = 0;
	return n;
}

static void print_frame(const struct frame *frame)
{
	char function[256], place[256] = "";

	if (frame->function)
		snprintf(function, sizeof(function), "%s", frame->function);
	else
		snprintf(function, sizeof(function), "0x%" PRIx64, frame->address);
	if (frame->file)
		snprintf(place, sizeof(place), ", %s:%d", base_name(frame->file), frame->line);
	else if (frame->module)
		snprintf(place, sizeof(place), ", %s", base_name(frame->module));
	/* The names are the program's, which needn't be the user's own. */
	make_printable(function);
	make_printable(place);
	printf("%s%s\n", function, place);
}

#define HEADING "    REFS    BYTES  BUFFERS   PINNED    TIMES  TAKEN IN"
#define INDENT 46

static void print_site(Dwfl *dwfl, const struct table *table, const struct sites_sum *sum)
{
	bool marked = sites_amplification(sum) >= AMPLIFICATION_MARKED;
	struct frame frames[FRAMES_MAX];
	unsigned int i, n, program;
	char bytes[16], pinned[16];

	n = site_find(dwfl, &table->sites[sum->site], frames, &program);
	printf("%s%8u %8s %8u %8s %7" PRIu64 "x%s  ", marked ? warning() : "", sum->refs,
	       size_text(bytes, sum->bytes), sum->buffers, size_text(pinned, sum->pinned),
	       sites_amplification(sum), marked ? plain() : "");
	if (!n)
		puts("places that found no room in the table");
	for (i = program; i < n && i < program + CALLERS_SHOWN; i++) {
		printf("%*s", i > program ? INDENT : 0, "");
		print_frame(&frames[i]);
	}
}

static void json_site(Dwfl *dwfl, const struct table *table, const struct sites_sum *sum)
{
	struct frame frames[FRAMES_MAX];
	unsigned int i, n, program;

	n = site_find(dwfl, &table->sites[sum->site], frames, &program);
	json_begin(NULL, '{');
	json_number("references", sum->refs);
	json_number("bytes", sum->bytes);
	json_number("buffers", sum->buffers);
	json_number("pinned_bytes", sum->pinned);
	json_number("amplification", sites_amplification(sum));
	json_begin("callers", '[');
	for (i = 0; i < n; i++) {
		json_begin(NULL, '{');
		json_number("address", frames[i].address);
		json_bool("library", i < program);
		if (frames[i].module)
			json_string("module", frames[i].module);
		if (frames[i].function)
			json_string("function", frames[i].function);
		if (frames[i].file) {
			json_string("file", frames[i].file);
			json_number("line", (uint64_t)frames[i].line);
		}
		json_end('}');
	}
	json_end(']');
	json_end('}');
}

static void table_print(const struct options *options, Dwfl *dwfl, const struct table *table,
			const struct sites_sum *sums, uint32_t n)
{
	uint32_t i;

	if (options->json) {
		json_begin(NULL, '{');
		json_number("pid", (uint64_t)options->pid);
		json_number("lost", table->header.lost);
		json_begin("sites", '[');
		for (i = 0; i < n; i++)
			json_site(dwfl, table, &sums[i]);
		json_end(']');
		json_end('}');
		json_line();
		return;
	}
	printf("%s%s%s\n", bold(), HEADING, plain());
	for (i = 0; i < n; i++)
		print_site(dwfl, table, &sums[i]);
	if (table->header.lost)
		printf("%" PRIu64 " more references found no room in the table.\n",
		       table->header.lost);
}

int sites(const struct options *options)
{
	struct table table = { 0 };
	struct sites_sum *sums = calloc(SITES_MAX, sizeof(*sums));
	Dwfl *dwfl = NULL;
	int status = 1;

	if (!sums) {
		complain("No memory: %s. Stop something else first.", strerror(errno));
	} else if (table_read(options->pid, &table)) {
		dwfl = open_files(options->pid);
		table_print(options, dwfl, &table, sums,
			    sites_sum_up(table.refs, table.header.nr_refs, sums));
		status = 0;
	}
	dwfl_end(dwfl);
	free(table.refs);
	free(table.sites);
	free(sums);
	return status;
}
