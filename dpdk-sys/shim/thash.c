/* rte_thash, for tests alone: in DPDK 22.11 it is not yet part of the stable ABI, so the daemon must
 * not link it. */
#include "shim.h"

#include <errno.h>
#include <string.h>

#include <rte_thash.h>

int sluice_thash_adjust(uint8_t *key, uint8_t key_len, uint32_t bits, uint8_t *tuple, uint32_t tuple_len,
			uint32_t desired)
{
	struct rte_thash_ctx *ctx = rte_thash_init_ctx("sluice", key_len, bits, key, 0);
	struct rte_thash_subtuple_helper *helper;
	int result;

	if (ctx == NULL)
		return rte_errno != 0 ? -rte_errno : -EINVAL;
	result = rte_thash_add_helper(ctx, "port", 16, (tuple_len - 2) * 8);
	if (result == 0) {
		memcpy(key, rte_thash_get_key(ctx), key_len);
		helper = rte_thash_get_helper(ctx, "port");
		result = rte_thash_adjust_tuple(ctx, helper, tuple, tuple_len, desired, 1, NULL, NULL);
	}
	rte_thash_free_ctx(ctx);
	return result;
}
