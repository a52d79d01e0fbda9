// A step's inputs: the epoch's tables, the rows of a batch and their weights.
#include "portable.h"

// row = that line of a table; `bytes` of a line are a multiple of 4
SCALAR void copy_line(uint8* row, const uint8* table, size_t line, size_t bytes) {
    for_each(bytes / 4, [](uint32& to, uint32 from) { to = from; },
             fresh(reinterpret_cast<uint32*>(row)),
             reinterpret_cast<const uint32*>(table + line * bytes));
}

// Line *clock of each table to its row, then clock += 1, by the last block: all have read it then. A
// table that there is not has lines of 0 bytes. Bytes: twice those of the lines. One dimension.
KERNEL(begin_step, int64* clock, uint8* row_1, const uint8* table_1, size_t bytes_1, uint8* row_2,
       const uint8* table_2, size_t bytes_2, uint8* row_3, const uint8* table_3, size_t bytes_3,
       uint32* tickets) {
    const size_t line = (size_t)*clock;
    copy_line(row_1, table_1, line, bytes_1);
    copy_line(row_2, table_2, line, bytes_2);
    copy_line(row_3, table_3, line, bytes_3);
    __syncthreads();  // the whole block has read the clock before its ticket is taken
    if (last_of(gridDim.x, tickets) && threadIdx.x == 0) *clock = (int64)line + 1;
}

struct alignas(16) Sixteen { uint32 words[4]; };

// body(out entry, source entry) for row i of out (rows, columns) and row index[i] of source, WIDTH
// entries at once. Threads (y) take rows, neighbouring ones (x) neighbouring entries.
template <int WIDTH, class To, class From, class Body>
SCALAR void for_gathered(To* out, const From* source, const int64* index, size_t rows, size_t columns,
                         Body body) {
    for (size_t row = thread_y(); row < rows; row += threads_y())
        walk<WIDTH, 4>(thread_x(), threads_x(), columns / WIDTH, 0, WIDTH,
                       [=](size_t, int, To& to, From from) { body(to, from); },
                       fresh(out + row * columns), source + index[row] * columns);
}

template <class Unit>
SCALAR void gather_units(uint8* out, const uint8* source, const int64* index, size_t rows,
                         size_t bytes) {
    for_gathered<1>(reinterpret_cast<Unit*>(out), reinterpret_cast<const Unit*>(source), index, rows,
                    bytes / sizeof(Unit), [](Unit& to, Unit from) { to = from; });
}

// row i of out = row index[i] of source. Bytes: twice those of out.
KERNEL(gather, uint8* out, const uint8* source, const int64* index, size_t rows, size_t bytes) {
    if (bytes % 16 == 0 && aligned<16>(out, source))
        gather_units<Sixteen>(out, source, index, rows, bytes);
    else if (bytes % 4 == 0 && aligned<4>(out, source))
        gather_units<uint32>(out, source, index, rows, bytes);
    else
        gather_units<uint8>(out, source, index, rows, bytes);
}

// row i of out = row index[i] of source, times factor. Bytes per entry: 5. Four at once: what one
// instruction of a warp stores is then 512 bytes in one piece, which 16 at once would not be.
KERNEL(gather_scaled, float* out, const uint8* source, const int64* index, float factor, size_t rows,
       size_t columns) {
    const auto scaled = [=](float& to, uint8 from) { to = (float)from * factor; };
    if (columns % 4 == 0 && aligned<4>(out, source))
        for_gathered<4>(out, source, index, rows, columns, scaled);
    else
        for_gathered<1>(out, source, index, rows, columns, scaled);
}

// out = weights / sum, or 0 where the sum is 0. One block. Bytes per entry: 12.
KERNEL(normalize, float* out, const float* weights, size_t rows) {
    double sum = 0.0;
    for_each(rows, [&](float weight) { sum += weight; }, weights);
    const float total = (float)block_sum(sum), divisor = total < SMALLEST ? SMALLEST : total;
    for_each(rows, [=](float& out, float weight) { out = weight / divisor; }, fresh(out), weights);
}
