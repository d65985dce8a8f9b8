vdpbf16ps zmm0, zmm28, zmm29
vdpbf16ps zmm27, zmm29, dword ptr [rax+52]{1to16}
vdpbf16ps zmm13, zmm28, dword ptr [rax]{1to16}
vdpbf16ps zmm9, zmm1, dword ptr [r8+1024]{1to16}
vcvtne2ps2bf16 zmm15, zmm17, zmm16
vcvtne2ps2bf16 zmm2, zmm1, zmm0
vmulps zmm16, zmm16, zmm18
vpxord zmm31, zmm31, zmm31
vpord zmm2, zmm1, zmm0
vpermw zmm2, zmm4, zmm2
vpunpckldq zmm16, zmm0, zmm1
vpunpckhdq zmm17, zmm14, zmm15
vpunpcklqdq zmm0, zmm16, zmm18
vpunpckhqdq zmm15, zmm29, zmm31
vshufi32x4 zmm16, zmm0, zmm4, 0x88
vshufi32x4 zmm31, zmm11, zmm15, 0xdd
vpslld zmm1, zmm1, 16
vpslld zmm17, zmm30, 16
vmovups zmm28, zmmword ptr [rdx]
vmovups zmm29, zmmword ptr [rdx+64]
vmovups zmm16{k1}{z}, zmmword ptr [rax]
vmovups zmm17{k2}{z}, zmmword ptr [r8+64]
vmovups zmm3, zmmword ptr [rsi+8]
vmovups zmm3, zmmword ptr [rsi-8192]
vmovups zmm3, zmmword ptr [r9+8192]
vmovdqu16 zmm7{k1}{z}, zmmword ptr [rax]
vpmovzxwd zmm1{k1}{z}, ymmword ptr [r8]
vpmovzxwd zmm0, ymmword ptr [rcx+32]
vbroadcastss zmm18, dword ptr [rdi+28]
vbroadcastss zmm27, dword ptr [r10+52]
vmovups zmmword ptr [r10], zmm5
vmovups zmmword ptr [rdx+64]{k2}, zmm27
vmovups zmmword ptr [rdx]{k1}, zmm0
kmovd k1, eax
kmovd k4, ecx
kmovd k2, r9d
kmovd k1, k3
kmovd k2, k4
vzeroupper
mov rax, r8
mov r8, rsi
mov rsi, rax
mov eax, dword ptr [rdi+16]
mov r8d, dword ptr [rdi]
mov ecx, dword ptr [r9+4]
mov eax, dword ptr [rdi+1000]
mov eax, 0xffffffff
mov r9d, 7
add r8, rsi
add rsi, rdx
add rax, 64
add rdx, 128
add r9, -1
cmp rcx, 1
cmp r9, 1000
cmove rax, rsi
cmovg rax, rsi
cmovne r8, rcx
ret
vaddps zmm0, zmm0, zmm2
vaddps zmm1{k2}, zmm1, zmmword ptr [rbx+64]
ldtilecfg [rdi+128]
tilezero tmm3
tileloadd tmm5, [rbx+rbp*1+64]
tileloadd tmm6, [rdx+r12*1+2048]
tilestored [rax+r12*1+64], tmm1
tdpbf16ps tmm3, tmm5, tmm7
tilerelease
push rbx
pop r12
mov r13d, dword ptr [rdi+36]
add rbx, rbp
add rdx, r13
cmp r13, 1
vpermps zmm20, zmm18, zmm16
vfmadd231ps zmm4, zmm20, zmmword ptr [rcx+448]
vfmadd231ps zmm7, zmm20, zmmword ptr [r12+64]
vfmadd231ps zmm5, zmm20, zmmword ptr [r13]
vpmovsxbd zmm18, xmmword ptr [rax+48]
vcvtdq2ps zmm20, zmm18
vpsrld zmm19, zmm18, 28
vpshufd zmm21, zmm0, 0x4e
vbroadcastss zmm17{k1}, dword ptr [rdx+4]
push r14
prefetcht1 [rax]
prefetcht1 [r13]
prefetcht1 [r12+64]
prefetcht1 [rbx+4096]
prefetcht0 [r11+128]
push r15
pop r15
add rax, r15
mov r15d, dword ptr [rdi+4]
vsubps zmm6, zmm13, zmm17
vdivps zmm20, zmm25, zmm3
vminps zmm2, zmm27, zmm2
vmaxps zmm0, zmm1, zmm0
vpandd zmm1, zmm0, zmm4
vpandnd zmm3, zmm26, zmm0
vaddps zmm1, zmm1, dword ptr [rdi+128]{1to16}
vmulps zmm2{k3}{z}, zmm2, zmm13
vcmplt_oqps k4, zmm0, zmm20
vcmpnlt_uqps k2, zmm17, zmm28
vblendmps zmm6{k4}, zmm5, zmm24
vcvtneps2bf16 ymm1, zmm2
vmovdqu16 zmmword ptr [r13]{k1}, zmm1
vmovdqu16 zmmword ptr [rdx+64]{k2}, zmm19
sub rcx, rbp
sub r9, rax
vpdpbusd zmm0, zmm28, dword ptr [rax+52]{1to16}
vpdpbusd zmm16, zmm17, zmm15
vpmaxud zmm31, zmm16, zmm18
vpsubd zmm16, zmm18, zmm16
vpackssdw zmm16, zmm16, zmm17
vpacksswb zmm15, zmm16, zmm18
vcvtps2dq zmm19, zmm19
vpxord zmm7, zmm16, zmmword ptr [rax]
vpabsb zmm17, zmm3
kmovd ecx, k2
kmovd r9d, k5
mov dword ptr [rdi+52], ecx
mov dword ptr [r10+1152], r9d
