// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Reads the clients and ends of all processes out of /proc. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "evplctl.h"

#define END_LINK	"anon_inode:[evpl-channel]"
#define DMABUF_LINK	"/dmabuf:"

/* The major number of the module's device, or 0 if the module isn't loaded. */
static unsigned int device_major(void)
{
	FILE *file = fopen("/proc/devices", "re");
	unsigned int major = 0, found = 0;
	char line[128], name[64];

	while (file && !found && fgets(line, sizeof(line), file))
		if (sscanf(line, "%u %63s", &major, name) == 2 && !strcmp(name, "evpl"))
			found = major;
	if (file)
		fclose(file);
	return found;
}

static uint64_t boot_time(void)
{
	struct timespec time;

	clock_gettime(CLOCK_BOOTTIME, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void holders_add(struct holders *holders, size_t process, int fd)
{
	holders->at = grow(holders->at, holders->count, sizeof(*holders->at));
	holders->at[holders->count++] = (struct holder){ .process = process, .fd = fd };
}

bool held_by(const struct system *system, const struct holders *holders, pid_t pid)
{
	size_t i;

	for (i = 0; i < holders->count; i++)
		if (system->processes[holders->at[i].process].pid == pid)
			return true;
	return false;
}

/* A process that has something of the module, or NULL after a complaint. */
const struct process *process_of(const struct system *system, pid_t pid)
{
	char path[64];
	size_t i;

	for (i = 0; i < system->nr_processes; i++)
		if (system->processes[i].pid == pid)
			return &system->processes[i];
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	if (!access(path, R_OK))
		complain("Process %d has no memory of evpl. 'evplctl list' names those that have.", pid);
	else if (errno == EACCES)
		complain("Process %d belongs to another user. Run evplctl as root.", pid);
	else
		complain("There is no process %d. 'evplctl list' names those that have memory.", pid);
	return NULL;
}

static struct client *client_at(const struct system *system, uint64_t id)
{
	size_t i;

	for (i = 0; i < system->nr_clients; i++)
		if (system->clients[i].id == id)
			return &system->clients[i];
	return NULL;
}

/* The client with an id, or NULL if it wasn't found. */
const struct client *client_find(const struct system *system, uint64_t id)
{
	return client_at(system, id);
}

/* A key that is a number of its own. */
struct key {
	const char *name;
	size_t offset;
};

static const struct key client_keys[] = {
	{ "client-id", offsetof(struct client, id) },
#define KEY(field, name) { name, offsetof(struct client, field) },
	CLIENT_KEYS(KEY)
#undef KEY
	{ NULL, 0 },
};

static const struct key end_keys[] = {
	{ "channel-id", offsetof(struct end, channel) },
	{ "end", offsetof(struct end, end) },
	{ "client-id", offsetof(struct end, client) },
	{ "peer-client-id", offsetof(struct end, peer) },
	{ "capacity", offsetof(struct end, capacity) },
	{ "lane", offsetof(struct end, lane) },
	{ "records-to-read", offsetof(struct end, to_read) },
	{ "records-written", offsetof(struct end, written) },
	{ NULL, 0 },
};

/*
 * Splits a line "evpl-NAME:\tVALUE" in two. Returns the name, or NULL if it is a line of another
 * kind.
 */
static char *key_of(char *line, char **value)
{
	char *colon = strchr(line, ':');

	if (!colon || strncmp(line, "evpl-", 5))
		return NULL;
	*colon = '\0';
	*value = colon + 1;
	return line + 5;
}

static void read_number(const struct key *keys, void *object, const char *name, const char *value)
{
	for (; keys->name; keys++)
		if (!strcmp(keys->name, name))
			sscanf(value, "%" SCNu64, (uint64_t *)((char *)object + keys->offset));
}

static void read_client_key(struct client *client, const char *name, const char *value)
{
	struct owner owner;
	struct lessee lessee;
	struct folios folios;

	read_number(client_keys, client, name, value);
	if (!strcmp(name, "leased-from") &&
	    sscanf(value, "%" SCNu64 "%" SCNu64 "%" SCNu64 "%" SCNu64, &owner.id, &owner.leases,
		   &owner.bytes, &owner.since) == 4) {
		client->owners = grow(client->owners, client->nr_owners, sizeof(owner));
		client->owners[client->nr_owners++] = owner;
	}
	if (!strcmp(name, "quarantine-lessee") &&
	    sscanf(value, "%" SCNu64 "%" SCNu64, &lessee.id, &lessee.buffers) == 2) {
		client->lessees = grow(client->lessees, client->nr_lessees, sizeof(lessee));
		client->lessees[client->nr_lessees++] = lessee;
	}
	if (sscanf(name, "folios-%" SCNu64 "kB", &folios.kib) == 1 &&
	    sscanf(value, "%" SCNu64, &folios.count) == 1) {
		client->folios = grow(client->folios, client->nr_folios, sizeof(folios));
		client->folios[client->nr_folios++] = folios;
	}
}

static void client_free(struct client *client)
{
	free(client->holders.at);
	free(client->owners);
	free(client->lessees);
	free(client->folios);
}

static void add_client(struct system *system, char *text, size_t process, int fd)
{
	struct client client = { 0 }, *known;
	char *line, *name, *value, *rest = text;

	while ((line = strsep(&rest, "\n"))) {
		name = key_of(line, &value);
		if (name)
			read_client_key(&client, name, value);
	}
	known = client_at(system, client.id);
	if (known) {
		client_free(&client);
	} else {
		system->clients = grow(system->clients, system->nr_clients, sizeof(client));
		known = &system->clients[system->nr_clients++];
		*known = client;
	}
	holders_add(&known->holders, process, fd);
}

static void add_end(struct system *system, char *text, size_t process, int fd)
{
	char *line, *name, *value, *rest = text;
	struct end end = { 0 };
	size_t i;

	while ((line = strsep(&rest, "\n"))) {
		name = key_of(line, &value);
		if (name)
			read_number(end_keys, &end, name, value);
	}
	for (i = 0; i < system->nr_ends; i++)
		if (system->ends[i].channel == end.channel && system->ends[i].end == end.end)
			break;
	if (i == system->nr_ends) {
		system->ends = grow(system->ends, system->nr_ends, sizeof(end));
		system->ends[system->nr_ends++] = end;
	}
	holders_add(&system->ends[i].holders, process, fd);
}

static void add_dmabuf(struct system *system, char *text, uint64_t inode, size_t process, int fd)
{
	struct dmabuf dmabuf = { .inode = inode };
	const char *size = strstr(text, "\nsize:");
	size_t i;

	if (size)
		sscanf(size, " size: %" SCNu64, &dmabuf.bytes);
	for (i = 0; i < system->nr_dmabufs; i++)
		if (system->dmabufs[i].inode == inode)
			break;
	if (i == system->nr_dmabufs) {
		system->dmabufs = grow(system->dmabufs, system->nr_dmabufs, sizeof(dmabuf));
		system->dmabufs[system->nr_dmabufs++] = dmabuf;
	}
	holders_add(&system->dmabufs[i].holders, process, fd);
}

/* Reads a whole file. Returns its text, which the caller frees, or NULL. */
static char *read_text(int dir, const char *path)
{
	size_t length = 0, room = 8192;
	char *text = NULL, *more;
	ssize_t n;
	int fd;

	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	do {
		room *= 2;
		more = realloc(text, room);
		if (!more) {
			free(text);
			close(fd);
			return NULL;
		}
		text = more;
		while ((n = read(fd, text + length, room - 1 - length)) > 0)
			length += n;
	} while (!n && length == room - 1);
	close(fd);
	text[length] = '\0';
	return text;
}

/*
 * Makes a name fit for a terminal. A process gives itself any name, also one that a terminal would
 * obey.
 */
void make_printable(char *name)
{
	for (; *name; name++)
		if (*name < ' ' || *name > '~')
			*name = '?';
}

/* Reads what a directory of /proc says of its process. */
void process_read(struct process *process, int dir, pid_t pid)
{
	struct stat stat;
	char *text;

	*process = (struct process){ .pid = pid };
	if (!fstat(dir, &stat))
		process->uid = stat.st_uid;
	text = read_text(dir, "comm");
	if (!text)
		return;
	text[strcspn(text, "\n")] = '\0';
	snprintf(process->command, sizeof(process->command), "%s", text);
	make_printable(process->command);
	free(text);
}

/*
 * The index of a process in the system, which it joins with its first descriptor. *@index is -1
 * until then.
 */
static size_t process_index(struct system *system, int dir, pid_t pid, ssize_t *index)
{
	struct process process;

	if (*index >= 0)
		return *index;
	process_read(&process, dir, pid);
	system->processes = grow(system->processes, system->nr_processes, sizeof(process));
	system->processes[system->nr_processes] = process;
	*index = system->nr_processes++;
	return *index;
}

static void read_fd(struct system *system, int dir, pid_t pid, const char *fd, unsigned int major,
		    ssize_t *index)
{
	bool client, end, dmabuf;
	char path[64], link[64] = "", *text;
	struct stat stat;

	snprintf(path, sizeof(path), "fd/%s", fd);
	if (readlinkat(dir, path, link, sizeof(link) - 1) < 0)
		return;
	end = !strcmp(link, END_LINK);
	if (!end && (*link != '/' || fstatat(dir, path, &stat, 0)))
		return;
	dmabuf = !strncmp(link, DMABUF_LINK, strlen(DMABUF_LINK));
	client = !end && S_ISCHR(stat.st_mode) && major(stat.st_rdev) == major;
	if (!client && !end && !dmabuf)
		return;
	snprintf(path, sizeof(path), "fdinfo/%s", fd);
	text = read_text(dir, path);
	/* The descriptor may have been closed, or be another one by now. */
	if (text && client && strstr(text, "evpl-buffers:"))
		add_client(system, text, process_index(system, dir, pid, index), atoi(fd));
	else if (text && end && strstr(text, "evpl-channel-id:"))
		add_end(system, text, process_index(system, dir, pid, index), atoi(fd));
	else if (text && dmabuf && strstr(text, "\nexp_name:\tevpl\n"))
		add_dmabuf(system, text, stat.st_ino, process_index(system, dir, pid, index),
			   atoi(fd));
	free(text);
}

static void read_process(struct system *system, int proc, const char *name, unsigned int major)
{
	int dir = openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fds;
	struct dirent *entry;
	ssize_t index = -1;
	DIR *list;

	if (dir < 0)
		return;
	fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	list = fds < 0 ? NULL : fdopendir(fds);
	if (!list) {
		/* A process that has ended meanwhile isn't hidden. */
		system->hidden += errno == EACCES;
		close(dir);
		return;
	}
	while ((entry = readdir(list)))
		if (isdigit(entry->d_name[0]))
			read_fd(system, dir, atoi(name), entry->d_name, major, &index);
	closedir(list);
	close(dir);
}

/* Reads all of /proc. Returns false after a complaint. */
bool system_read(struct system *system)
{
	unsigned int major = device_major();
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	*system = (struct system){ .now = boot_time() };
	if (!proc) {
		complain("/proc can't be read: %s. Mount it, or run evplctl outside of the sandbox.",
			 strerror(errno));
		return false;
	}
	if (!major) {
		complain("The module isn't loaded. Load it with 'modprobe evpl' as root.");
		closedir(proc);
		return false;
	}
	while ((entry = readdir(proc)))
		if (isdigit(entry->d_name[0]))
			read_process(system, dirfd(proc), entry->d_name, major);
	closedir(proc);
	return true;
}

void system_free(struct system *system)
{
	size_t i;

	for (i = 0; i < system->nr_clients; i++)
		client_free(&system->clients[i]);
	for (i = 0; i < system->nr_ends; i++)
		free(system->ends[i].holders.at);
	for (i = 0; i < system->nr_dmabufs; i++)
		free(system->dmabufs[i].holders.at);
	free(system->dmabufs);
	free(system->clients);
	free(system->ends);
	free(system->processes);
	*system = (struct system){ 0 };
}
