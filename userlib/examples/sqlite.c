// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Has SQLite keep all of its memory in buffers of evpl: the page cache in a slice of one pool, and
 * everything else in an arena of mimalloc (arena.h). A database in a file is written, read, and
 * checked. Then all pages are in the slice, and in no other memory of SQLite.
 *
 *	cc sqlite.c $(pkg-config --cflags --libs libevplmem sqlite3) -lmimalloc
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE	/* memmem() */
#endif
#include "arena.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CACHE = 16 << 20, PAGE = 4096, ROWS = 5000, BLOB = 600 };

static struct arena arena;
static mi_heap_t *heap;
static struct evpl_iovec pages;
static unsigned long allocated;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "sqlite: %s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "sqlite: it isn't true that %s\n", what);
	exit(1);
}

/* SQLite's allocator. SQLite runs on the thread of the heap alone: SQLITE_CONFIG_SINGLETHREAD. */

static void *heap_malloc(int length)
{
	void *object = mi_heap_malloc(heap, (size_t)length);

	want(!object || arena_has(&arena, object, (size_t)length), "SQLite's object is in the buffer");
	allocated++;
	return object;
}

static void *heap_realloc(void *object, int length)
{
	object = mi_heap_realloc(heap, object, (size_t)length);
	want(!object || arena_has(&arena, object, (size_t)length), "a resized object is in the buffer");
	return object;
}

static int heap_size(void *object)
{
	return (int)mi_usable_size(object);
}

static int heap_roundup(int length)
{
	return (int)mi_good_size((size_t)length);
}

static int heap_init(void *unused)
{
	(void)unused;
	return SQLITE_OK;
}

static void heap_shutdown(void *unused)
{
	(void)unused;
}

static const struct sqlite3_mem_methods methods = {
	.xMalloc = heap_malloc,
	.xFree = mi_free,
	.xRealloc = heap_realloc,
	.xSize = heap_size,
	.xRoundup = heap_roundup,
	.xInit = heap_init,
	.xShutdown = heap_shutdown,
};

/* SQLite keeps a header beside each page. It says how long that is. */
static void configure(void)
{
	int header = 0;

	want(!sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) &&
	     !sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) &&
	     !sqlite3_config(SQLITE_CONFIG_PCACHE_HDRSZ, &header) &&
	     !sqlite3_config(SQLITE_CONFIG_PAGECACHE, pages.data, PAGE + header,
			     (int)pages.length / (PAGE + header)) &&
	     !sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 1) && !sqlite3_initialize(),
	     "SQLite takes the memory");
}

static void run(sqlite3 *db, const char *sql)
{
	char *error = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &error) == SQLITE_OK)
		return;
	fprintf(stderr, "sqlite: %s: %s\n", sql, error);
	exit(1);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *statement;

	want(sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK, "a statement is right");
	return statement;
}

/* A row's bytes begin with a mark, by which it is found in the page cache. */
#define MARK	"evpl row "

static void make_blob(unsigned char *blob, int row)
{
	int i;

	memset(blob, 0, BLOB);
	i = snprintf((char *)blob, BLOB, MARK "%d", row);
	for (i++; i < BLOB; i++)
		blob[i] = (unsigned char)(row * 7 + i);
}

static void write_rows(sqlite3 *db)
{
	unsigned char blob[BLOB];
	sqlite3_stmt *insert;
	int row;

	run(db, "PRAGMA page_size = 4096; PRAGMA cache_size = 2000;"
	    "CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT, bytes BLOB);"
	    "CREATE INDEX names ON rows (name); BEGIN");
	insert = prepare(db, "INSERT INTO rows VALUES (?1, 'row ' || ?1, ?2)");
	for (row = 0; row < ROWS; row++) {
		make_blob(blob, row);
		sqlite3_bind_int(insert, 1, row);
		sqlite3_bind_blob(insert, 2, blob, BLOB, SQLITE_STATIC);
		want(sqlite3_step(insert) == SQLITE_DONE, "a row is inserted");
		sqlite3_reset(insert);
	}
	sqlite3_finalize(insert);
	run(db, "COMMIT; DELETE FROM rows WHERE id % 10 = 3");
}

static void read_rows(sqlite3 *db)
{
	sqlite3_stmt *query = prepare(db, "SELECT id, bytes FROM rows ORDER BY name");
	unsigned char blob[BLOB];
	int rows = 0;

	while (sqlite3_step(query) == SQLITE_ROW) {
		make_blob(blob, sqlite3_column_int(query, 0));
		want(sqlite3_column_bytes(query, 1) == BLOB &&
		     !memcmp(sqlite3_column_blob(query, 1), blob, BLOB), "a row has its bytes");
		rows++;
	}
	sqlite3_finalize(query);
	want(rows == ROWS - ROWS / 10, "all rows are there but those that were deleted");
}

/* Looks for all rows in the page cache. Returns how many are there whole. */
static int rows_in_pages(void)
{
	const unsigned char *at = pages.data, *end = at + pages.length;
	static bool seen[ROWS];
	unsigned char blob[BLOB];
	int row, rows = 0;

	for (; (at = memmem(at, (size_t)(end - at), MARK, strlen(MARK))); at++) {
		row = atoi((const char *)at + strlen(MARK));
		if (row < 0 || row >= ROWS || row % 10 == 3 || seen[row] || end - at < BLOB)
			continue;
		make_blob(blob, row);
		seen[row] = !memcmp(at, blob, BLOB);
		rows += seen[row];
	}
	return rows;
}

static void check_database(sqlite3 *db)
{
	sqlite3_stmt *query = prepare(db, "PRAGMA integrity_check");

	want(sqlite3_step(query) == SQLITE_ROW &&
	     !strcmp((const char *)sqlite3_column_text(query, 0), "ok"), "the database is whole");
	sqlite3_finalize(query);
}

static int status(int what, bool most)
{
	int now, highest;

	want(sqlite3_status(what, &now, &highest, 0) == SQLITE_OK, "SQLite has the statistic");
	return most ? highest : now;
}

int main(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool *pool, *cache;
	struct evpl *evpl, *cache_evpl;
	char directory[] = "/tmp/evpl-sqlite-XXXXXX", path[64];
	sqlite3 *db;

	config.buffer_size = CACHE;
	check(arena_pool_open(&pool, ARENA_MIN), "pool");
	check(evpl_create(&evpl, pool, NULL), "context");
	check(arena_create(&arena, evpl, true), "arena");
	heap = mi_heap_new_in_arena(arena.id);
	want(heap, "there is a heap in the arena");
	check(evpl_pool_open(&cache, &config), "pool of the page cache");
	check(evpl_create(&cache_evpl, cache, NULL), "context of the page cache");
	check(evpl_buffer_alloc(cache_evpl, &pages), "page cache");
	configure();

	want(mkdtemp(directory), "there is a directory for the database");
	snprintf(path, sizeof(path), "%s/db", directory);
	want(sqlite3_open(path, &db) == SQLITE_OK, "the database is opened");
	write_rows(db);
	read_rows(db);
	want(sqlite3_close(db) == SQLITE_OK && sqlite3_open(path, &db) == SQLITE_OK,
	     "the database is opened again");
	run(db, "PRAGMA cache_size = 2000");
	read_rows(db);
	check_database(db);
	want(rows_in_pages() == ROWS - ROWS / 10, "each row is in the slice of the page cache");
	want(status(SQLITE_STATUS_PAGECACHE_USED, true) > ROWS * BLOB / PAGE,
	     "the page cache has had the pages of all rows");
	want(!status(SQLITE_STATUS_PAGECACHE_OVERFLOW, true), "no page was outside of the page cache");
	want(sqlite3_close(db) == SQLITE_OK && !sqlite3_shutdown(), "SQLite ends");
	unlink(path);
	rmdir(directory);

	printf("SQLite had up to %d pages in the page cache, and made %lu objects in the arena.\n",
	       status(SQLITE_STATUS_PAGECACHE_USED, true), allocated);
	evpl_iovec_release(&pages);
	evpl_destroy(cache_evpl);
	check(evpl_pool_close(cache), "closing the pool of the page cache");
	evpl_destroy(evpl);
	return 0;
}
